"""Recursive architectures beside the Tiny Recursive Model: small, with random weights, one file each."""

from laser_fx.zoo.families.automaton import CellularAutomaton
from laser_fx.zoo.families.descent import UnrolledDescent
from laser_fx.zoo.families.fixed_point import UnrolledEquilibrium
from laser_fx.zoo.families.hrm import HRM
from laser_fx.zoo.families.huginn import Huginn
from laser_fx.zoo.families.latents import ManyLatents, SingleLatent
from laser_fx.zoo.families.looped_gpt import LoopedGPT
from laser_fx.zoo.families.raft import RAFT
from laser_fx.zoo.families.recurrent import UnrolledGRU, UnrolledLSTM
from laser_fx.zoo.families.supervision import DeepSupervision
from laser_fx.zoo.families.tied import RepeatedModule, TiedParameters
from laser_fx.zoo.families.universal import AdaptiveUniversalTransformer, UniversalTransformer

__all__ = [
    "HRM",
    "RAFT",
    "AdaptiveUniversalTransformer",
    "CellularAutomaton",
    "DeepSupervision",
    "Huginn",
    "LoopedGPT",
    "ManyLatents",
    "RepeatedModule",
    "SingleLatent",
    "TiedParameters",
    "UniversalTransformer",
    "UnrolledDescent",
    "UnrolledEquilibrium",
    "UnrolledGRU",
    "UnrolledLSTM",
]
