"""Tensors that were called in another way by earlier versions of the programs that wrote them."""

from __future__ import annotations

import re

from segcli.models.checkpoint import Tensors

# In which table of names (one of them has this), what is called otherwise today, and how.
_FORMER = (
    # MONAI's UNet and BasicUNet before 0.4: norm and activation were no group of their own.
    (r"\.submodule\.|(^|\.)conv_0\.conv_0\.conv\.weight$", r"(?<=\.)norm\.(?=\w+$)", "adn.N."),
    (r"\.submodule\.|(^|\.)conv_0\.conv_0\.conv\.weight$", r"(?<=\.)act\.(?=\w+$)", "adn.A."),
    # SwinUNETR before MONAI had it, and as VoCo calls its encoder.
    (r"(^|\.)swin_vit\.layers1\.", r"(^|(?<=\.))swin_vit\.", "swinViT."),
    (r"(^|\.)swinViT\.layers1\.0\.blocks\.0\.mlp\.fc1\.", r"(?<=\.mlp\.)fc(?=[12]\.\w+$)", "linear"),
)


def of_today(tensors: Tensors) -> Tensors:
    """The tensors under the names of today, in their order; those that are called so already as they are."""
    for table, then, now in _FORMER:
        if any(re.search(table, name) for name in tensors):
            tensors = {re.sub(then, now, name): tensor for name, tensor in tensors.items()}
    return tensors
