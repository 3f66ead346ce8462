"""Recordings and poses to look at: Rerun's files and viewer, and a page of one file. Imports stores alone."""
