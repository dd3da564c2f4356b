"""What it costs: every hot path against a plain implementation of the usual way, and how cost grows.

`python -m bench` prints the tables. One module a path: its plain way (which doubles as an oracle of the tests), its
cases for the table, and its growth. Not part of the installed package.
"""
