"""What a run has learned: which inputs it reads, what it can do without, what formula it is, how alike its edges."""

from kanpde.explain.stages import Explanation, explain

__all__ = ["Explanation", "explain"]
