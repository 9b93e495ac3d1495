"""Measuring one engine against itself: the same requests in every speculation mode, in one process, in turn."""
