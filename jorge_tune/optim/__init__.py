"""The optimizer family: torch and the standard library only, useful without the rest of the package."""

from jorge_tune.optim.gen import GeN
from jorge_tune.optim.half_power import half_refresh
from jorge_tune.optim.jorge import Jorge, congruence_refresh, series_refresh
from jorge_tune.optim.kronecker import Counters, KroneckerOptimizer
from jorge_tune.optim.muon import Muon
from jorge_tune.optim.parabola import Parabola, fit_parabola
from jorge_tune.optim.param_groups import param_groups
from jorge_tune.optim.sgd import DecoupledSGD
from jorge_tune.optim.shampoo import Shampoo, inverse_root_eigh, inverse_root_newton
from jorge_tune.optim.sketchy import SketchyAdaGrad, SketchyShampoo, frequent_directions

__all__ = [
    "Counters",
    "DecoupledSGD",
    "GeN",
    "Jorge",
    "KroneckerOptimizer",
    "Muon",
    "Parabola",
    "Shampoo",
    "SketchyAdaGrad",
    "SketchyShampoo",
    "congruence_refresh",
    "fit_parabola",
    "frequent_directions",
    "half_refresh",
    "inverse_root_eigh",
    "inverse_root_newton",
    "param_groups",
    "series_refresh",
]
