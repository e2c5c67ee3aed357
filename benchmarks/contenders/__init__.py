"""Who is measured: MB in each of its forms, and its peers, each in its best."""

from .registry import BY_NAME, CONTENDERS, Contender, Program

__all__ = ["BY_NAME", "CONTENDERS", "Contender", "Program"]
