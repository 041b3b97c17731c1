# %% [markdown]
# # Painting in a notebook
# Each `# %%` begins a cell in VS Code, PyCharm and (by jupytext) Jupyter.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

from cyclegan_cli import load_style, translate

photo = Image.open(Path(__file__).parents[1] / "images" / "coffee.jpg")
photo.thumbnail((480, 480))

# %% One picture. A notebook shows what a cell's last line returns.
painted = translate(photo, style="monet")
painted

# %% A style that stays loaded, and three strengths side by side.
vangogh = load_style("vangogh")
strengths = (0.3, 0.6, 1.0)
sheet = Image.fromarray(np.hstack([np.asarray(vangogh(photo, strength=s)) for s in strengths]))
sheet

# %% Several pictures: a list, or an array N×H×W×3. Back comes what went in.
batch = np.stack([np.asarray(photo), np.asarray(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT))])
paintings = vangogh(batch, resolution=320)
print(paintings.shape, paintings.dtype)

# %% Only the brushwork, in the photograph's colours.
quiet = vangogh(photo, keep_color=True, strength=0.8)
quiet.save("quiet.png")
