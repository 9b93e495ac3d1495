"""C++ kernels of the CPU path: sources, their build (`python -m bowsprit_engine.native.build`) and where a build lies.

The sources are compiled once per instruction set; kernels/native.py picks one at run time.
"""
