"""C++ of the engine: sources, their build (`python -m bowsprit_engine.native.build`) and where a build lies.

The kernels of the CPU path are compiled once per instruction set, of which kernels/native.py picks one at run time;
look-up (lookup/) once, for any processor.
"""
