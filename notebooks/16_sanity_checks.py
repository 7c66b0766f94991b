# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Check that maps depend on what the network has learnt
#
# **Question.** Do the maps of a method change when the network's weights become random?
#
# **Reads** the weights and predictions of a model of each corpus, the test images and the image lists. **Writes** the table
# and figure `sanity_checks`, and `data/<study>/statistics/explained.csv`. **Takes** half a minute.

# %% [markdown]
# A map can look right because it shows edges or bright spots of the image, whatever the network knows. Adebayo et al. (2018)
# therefore make the layers random one after another, from the last to the first, and compare maps with those of
# the trained network. A method that explains the network must lose its maps with the weights.
#
# Three similarities: rank correlation of the pixels over the whole image and inside the brain, and structural similarity. The
# whole image flatters methods that multiply by the image: their maps are 0 in the background for any network. The fourth
# measure is what it costs: the change of Relevance Rank Accuracy. The floor is a map that knows nothing, uniform noise.

# %% tags=["parameters"]
study: str = "demo"  # a file in studies/
selection: str = "best"  # how models are chosen: best or matched
pretraining: str = "natural"  # the corpus that the network saw first
finetune_depth: int = 5  # 1: last block only ... 5: whole network
seed: int = 0  # of the fine-tuning
n_images: int = 16  # test images of both classes that all models get right; at most attribution.max_images
random_seed: int = 2018  # of the random weights; another one than that of the pre-training

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd

from pretrain_xai import sanity
from pretrain_xai.drawing import figures
from pretrain_xai.dataset import read_split
from pretrain_xai.explain import Explainer
from pretrain_xai.networks.models import N_CLASSES, build_network, load_finetuned, place
from pretrain_xai.names import label
from pretrain_xai.drawing.statistics_plots import sanity_figure
from pretrain_xai.provenance import record
from pretrain_xai.selection import example_images
from pretrain_xai.statistics.findings import explained_finding, sanity_findings
from pretrain_xai.study import Run, load_study
from pretrain_xai.tables import read_table, write_table
from pretrain_xai.networks.training import configure_torch

# %%
config = load_study(study)
protocol = config.protocol
settings = config.attribution
run = config.check_run(Run(selection, pretraining, finetune_depth, seed))
configure_torch(config.threads)
figures.use_style()

# %% [markdown]
# ## Load the model, and one that knows nothing

# %%
network = load_finetuned(config, run)
random_network = place(build_network(config.network, N_CLASSES, seed=random_seed), config)
test = read_split(config.paths.dataset / "test", protocol.mask_threshold)
intersections = read_table(config.paths.intersections)
count = min(n_images, settings.max_images or n_images)
chosen = example_images(intersections, selection, test.labels, count, settings.seed)
images = chosen.loc[chosen["correct"], "image_index"].to_numpy()
print(f"{run.name}: {len(images)} images")

# %% [markdown]
# ## Make its layers random, one after another
#
# If memory runs out, all starts again with fewer images a pass.

# %%
explainer = Explainer(network, test, settings, protocol)
table = sanity.compare_with_random(explainer, random_network, images, settings.methods)
path = config.paths.data / "sanity_checks.csv"
write_table(table, path)
print(f"{len(table)} comparisons, saved {path}")

# %% [markdown]
# ## Figure
#
# Means over the images. From left to right more layers are random; on the far right stands a random map. The table also holds
# `score_left`: the share of the score above that of a random map which is left.

# %%
means = sanity.mean_similarity(table)
methods = list(dict.fromkeys(table["method"]))
figure = sanity_figure(means, methods)
inputs = [config.paths.dataset / "test" / "images.npy", config.paths.intersections]
parameters = {"study": study, "run": run, "n_images": len(images), "random_seed": random_seed}
parameters["micro_batch"] = explainer.micro_batch
means = pd.concat([means, sanity.score_left(means)], ignore_index=True)
figures.save_figure(figure, means, study, "sanity_checks", parameters=parameters, inputs=inputs)
plt.show(figure)

# %% [markdown]
# ## How much of the maps is left?
#
# Rank correlation inside the brain: 1 as for equal maps, 0 as for a random map.

# %%
left = sanity.retained(table, "rank_correlation_in_brain")
left.rename(index=label).style.format(precision=2)

# %% [markdown]
# ## Read the result
#
# Once the classifier (the layers fc) is random, nothing of the decision is left in the network.

# %%
kept = left.drop(columns="trained").mean(axis=1).sort_values()
print(f"{label(kept.index[-1])} reacts least to the weights, {label(kept.index[0])} most:", end=" ")
print(f"in the mean over the layers {kept.iloc[-1]:.0%} and {kept.iloc[0]:.0%} of the similarity are left")
unmoved = left.index[left["fc1"] >= 0.9]
print("at least 90 % left with a random classifier:", ", ".join(map(label, unmoved)) or "no method")

# %% [markdown]
# And what is left of the score when every layer is random? Whatever it is above chance comes from the image and the
# architecture, and from nothing that was learnt.

# %%
change = means[means["measure"] == "rank_accuracy_change"].groupby("layer")["mean"].mean()
print("mean change of Relevance Rank Accuracy over the methods:", end=" ")
print(f"{change['conv1']:+.3f} with all layers random, {change[sanity.RANDOM_MAP]:+.3f} with a random map")
print(*(finding.text for finding in sanity_findings(means)))

# %% [markdown]
# ## Does it matter that one logit is explained?
#
# The methods explain the logit of the true class, as in the paper. The decision depends on the difference of the two logits.
# It can be explained as exactly: taken into the last layer, it is a logit (`attribution.explained: difference`). Of each
# corpus one network, on the same images.
#
# Cross-entropy sees nothing but the difference, and so moves the two logits by equal steps in opposite directions. How far
# they are opposite, `common_share` says: SD(z0 + z1) / SD(z1 - z0) over the test images.

# %%
tables = []
for other in config.first_runs(selection, finetune_depth):
    predictions = read_table(config.paths.finetuned(other.name) / "predictions.parquet").query("split == 'test'")
    share = sanity.common_share(predictions[["logit_0", "logit_1"]].to_numpy())
    compared = replace(explainer, network=load_finetuned(config, other))
    tables.append(sanity.logit_or_difference(compared, images, methods).assign(**vars(other), common_share=share))
explained = pd.concat(tables, ignore_index=True)
path = config.paths.statistics / "explained.csv"
write_table(explained, path)
record(path, parameters=parameters, inputs=inputs)
explained.pivot_table(index="method", columns="pretraining", values="change", sort=False).rename(label).round(4)

# %%
print(explained_finding(explained).text)
