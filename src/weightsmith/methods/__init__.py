"""Merge methods: maths on blocks. No files, no names, no threads."""
