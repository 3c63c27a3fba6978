"""The presets for toys: small enough to be trained here, with the parts of the published ones."""

import detrkit
from detrkit.presets import training_recipe

TWINS = [name for name in detrkit.presets() if training_recipe(name).data == "toy"]
