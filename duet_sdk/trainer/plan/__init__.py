"""What a run will take, before anything is loaded: batches, memory by part, the launch line, and what does not fit.

Everything here is computed from the configuration and the models' shapes. It is an estimate that says where memory
goes, not a measurement.
"""

from duet_sdk.trainer.plan.arithmetic import Batches, batches
from duet_sdk.trainer.plan.hardware import Hardware
from duet_sdk.trainer.plan.make import Plan, plan
from duet_sdk.trainer.plan.shape import ModelShape, find_shape
from duet_sdk.trainer.plan.table import print_plan

__all__ = ["Batches", "Hardware", "ModelShape", "Plan", "batches", "find_shape", "plan", "print_plan"]
