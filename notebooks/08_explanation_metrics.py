# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Measure how well explanations find the lesions
#
# **Question.** Of the pixels that an explanation method ranks highest, what share lies inside a lesion?
#
# **Reads** one model's weights, the test images and the list of images to explain. **Writes** one row per image,
# method and metric to `data/<study>/scores/`, what the same maps score in other ways to `data/<study>/setting_scores/`, and a
# few maps to `data/<study>/example_maps/`. **Takes** a quarter of a minute per model of the demo.

# %% [markdown]
# The lesions define the class, so they are what a good explanation of a good model should point to. If a lesion mask has
# k pixels, Relevance Rank Accuracy is the share of the k strongest pixels of the map that lie inside it. A random
# map scores k / all pixels: the level of chance.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched
pretraining: str = "natural"  # the corpus that the network saw first; none: untrained network and comparison maps
finetune_depth: int = 3  # 1: last block only ... 5: whole network; 0: untrained
seed: int = 0  # of the fine-tuning
methods: list[str] = [  # keys of pretrain_xai.attribution.METHODS
    "integrated_gradients",
    "gradient_shap",
    "deep_lift",
    "saliency",
    "input_x_gradient",
    "guided_backprop",
    "deconvolution",
    "lrp",
]

# %%
import pandas as pd

from pretrain_xai.dataset import read_split
from pretrain_xai.explain import Explainer
from pretrain_xai.networks.models import device_name, load_finetuned
from pretrain_xai.names import label
from pretrain_xai.provenance import record
from pretrain_xai.selection import CORRECT_FOR_ALL, example_images, explained_images, scored_on
from pretrain_xai.setting_scores import score_comparison_maps
from pretrain_xai.study import Run, first_untrained, load_study
from pretrain_xai.tables import read_table, write_arrays, write_scores
from pretrain_xai.networks.training import configure_torch

config = load_study(study)
protocol = config.protocol
settings = config.attribution
run = config.check_run(Run(selection, pretraining, finetune_depth, seed))
configure_torch(config.threads)

# %% [markdown]
# ## Load the model and choose the images
#
# The images that all models of the selection classify correctly, and those that this one gets wrong; both sampled down
# to what the study file allows.

# %%
network = load_finetuned(config, run)
test = read_split(config.paths.dataset / "test", protocol.mask_threshold, with_twins=protocol.has_twins)
intersections = read_table(config.paths.intersections)
images = explained_images(intersections, run, seed=settings.seed, **config.image_limits[selection])
print(f"{run.name}: {len(images)} of {len(test)} test images")

# %% [markdown]
# ## Explain and score
#
# All methods explain the true label: its logit, or with `attribution.explained: difference` its logit less the mean of the
# others'. Maps are scored as they come and not kept: once as the study says, under every other channel reduction, mask
# threshold and score that its section `sensitivity` names, against other ground truths, and by the positive or negative
# values alone. If memory runs out, the model starts again with fewer images a pass.

# %%
explainer = Explainer(network, test, settings, protocol)
scores, others = explainer.scores(images, methods)
if run == first_untrained(selection):  # edge filters and the image itself: what finds lesions without any network
    scores = pd.concat([scores, score_comparison_maps(test, images, settings, protocol)[0]])

# %%
path = write_scores(scores, config, run)
others.write(config.paths.setting_scores / f"{run.name}.npz")
inputs = [config.paths.dataset / "test" / "images.npy", config.paths.intersections]
facts = {"methods": methods, "explained": settings.explained}
facts |= {"micro_batch": explainer.micro_batch, "device": device_name(network)}
record(path, parameters={"study": study, "run": run, "protocol": config.protocol_name} | facts, inputs=inputs)

# %% [markdown]
# ## Keep a few maps for the heatmaps
#
# The same images for every model.

# %%
examples = example_images(intersections, selection, test.labels, settings.example_images, settings.seed)
kept = examples["image_index"].to_numpy()
maps = explainer.example_maps(kept, methods)
write_arrays(config.paths.example_maps / f"{run.name}.npz", image_index=kept, **maps)

# %% [markdown]
# ## Read the result
#
# On the images that all models classify correctly.

# %%
right = scored_on(scores, intersections, selection, CORRECT_FOR_ALL)
accuracy = right[right["metric"] == "relevance_rank_accuracy"]
medians = accuracy.groupby("method")[["value", "chance"]].median().sort_values("value", ascending=False)
medians.rename(label).round(3)

# %% [markdown]
# Integrated Gradients and DeepLift promise that their maps sum to the logit's difference to a black image. This is how far
# they are off, in units of the logit. DeepLift should be off by rounding only. Integrated Gradients adds up gradients at
# `n_steps` points between the black image and this one: the fewer, the coarser (16 in the demo, 50 in the paper).

# %%
deltas = scores[scores["metric"] == "completeness_delta"]
deltas.groupby("method")["value"].describe()[["count", "mean", "std", "min", "max"]].rename(label).round(4)

# %%
best, score = medians.index[0], medians["value"].iloc[0]
print(f"highest median: {label(best)} {score:.3f}, chance {accuracy['chance'].mean():.3f}; saved {path}")
print(f"maps that are 0 everywhere: {int(scores.loc[scores['metric'] == 'all_zero', 'value'].sum())}")
