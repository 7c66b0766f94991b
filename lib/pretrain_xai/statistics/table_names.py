"""What the tables of the statistics are called: known without computing any, as the Snakefile must."""

#: of `summary`; the last two need several seeds and have no rows with one
STATISTICS: tuple[str, ...] = ("images", "network_means", "cells", "effects", "skill_by_dependence", "ranks")
STATISTICS += ("redundancy", "effective_methods", "spread", "power")
#: of `equal_accuracy`
EQUAL_ACCURACY = ("equal_accuracy", "accuracy_and_skill", "accuracy_correlations", "claims", "test_spread")
#: of `sensitivity`
SENSITIVITY = ("sensitivity", "flips", "survival", "ground_truths")
#: of `sanity`
SANITY = ("explained",)
#: tables for papers, and what they hold
MANUSCRIPT = {"skill": "skill of every cell", "effects": "effects", "ranks": "ranks of the methods"}
