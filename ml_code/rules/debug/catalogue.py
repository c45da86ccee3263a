"""The debugger rules that there are."""

from rules.debug.activations import DeadRelu, SaturatedActivation
from rules.debug.gradients import VanishingGradient
from rules.debug.initialization import PoorWeightInitialization
from rules.debug.inputs import CheckInputImages
from rules.debug.labels import ClassImbalance, Confusion
from rules.debug.losses import LossNotDecreasing
from rules.debug.overfitting import Overfit, Overtraining
from rules.debug.progress import StalledTrainingRule
from rules.debug.values import AllZero, ExplodingTensor, TensorVariance
from rules.debug.weights import UnchangedTensor, WeightUpdateRatio

DEBUG_RULES = (
    VanishingGradient,
    ExplodingTensor,
    PoorWeightInitialization,
    LossNotDecreasing,
    Overfit,
    Overtraining,
    DeadRelu,
    SaturatedActivation,
    WeightUpdateRatio,
    AllZero,
    UnchangedTensor,
    TensorVariance,
    ClassImbalance,
    Confusion,
    StalledTrainingRule,
    CheckInputImages,
)
