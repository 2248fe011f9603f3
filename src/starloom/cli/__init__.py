"""The commands. Each calls one face of one room."""
