"""The debugger rules that there are."""

from rules.debug.gradients import PoorWeightInitialization, VanishingGradient
from rules.debug.losses import LossNotDecreasing, Overfit, Overtraining

DEBUG_RULES = (VanishingGradient, PoorWeightInitialization, LossNotDecreasing, Overfit, Overtraining)
