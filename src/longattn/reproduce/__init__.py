"""The paper's comparison in small: select by every rule, continue a base on equal tokens of each, see what it learned.

Its modules are asked for by name; importing this package imports none of them.
"""
