"""How well a checkpoint uses a long context: made-up tasks with known answers, and losses by how far back one may look.

Its modules are asked for by name; importing this package imports none of them.
"""
