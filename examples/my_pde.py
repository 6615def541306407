"""A PDE of one's own:  python -m kanpde.solve examples/my_pde.yaml   or   python examples/my_pde.py"""

from dataclasses import dataclass

import kanpde
from kanpde.domains import Ball


@dataclass(frozen=True)
class Helmholtz(kanpde.Problem):
    """Lap u + k^2 u = g on the unit ball, u = 0 on its boundary; exact solution (1 - |x|^2) exp(x_1)."""

    k: float = 2.0

    @property
    def domain(self):
        return Ball(self.dim)

    def exact(self, x):
        return (1 - x.square().sum(-1)) * x[:, 0].exp()

    def residual(self, u, x):
        r_sq, a = x.square().sum(-1), x[:, 0]
        laplacian = a.exp() * (1 - r_sq - 4 * a - 2 * self.dim)
        return u.lap + self.k**2 * u.value - (laplacian + self.k**2 * self.exact(x))


if __name__ == "__main__":
    run = kanpde.train(Helmholtz(10), backbone="kan", steps=500)
    print(run.rel_l2, run.path)
