"""MLP-Mixer: perceptrons along the patches and along the channels, in turn."""

from nnfunc import check
from nnfunc.base import Model, Scalar
from nnfunc.combinators import wire
from nnfunc.layers.dropout import drop_path as drop_path_layer
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.embedding import patch_embedding
from nnfunc.layers.feed_forward import feed_forward
from nnfunc.layers.linear import linear
from nnfunc.layers.norm import layer_norm
from nnfunc.models.vit import check_image, grid
from nnfunc.stacked_layers import repeat

__all__ = ["mixer"]


def mixer(
    classes: int,
    *,
    image_size: int | tuple[int, int],
    patch: int | tuple[int, int],
    in_dim: int = 3,
    dim: int,
    layers: int,
    token_hidden: int,
    channel_hidden: int,
    eps: Scalar = 1e-6,
    dropout: Scalar | None = None,
    drop_path: Scalar | None = None,
    unroll: int = 1,
) -> Model:
    """MLP-Mixer: patches as vectors, mixed along the patches and along the channels by perceptrons.

    A block is `x + tokens(norm(x))` with the axes of patches and channels exchanged, then
    `x + channels(norm(x))`; both are linear, gelu, linear. After the last: norm, mean over the patches,
    head. Paths: `patches/weight`, `blocks/tokens/up/weight`, ..., `norm/scale`, `head/weight`.
    dim, layers: width and blocks.
    eps: that of the norms, above 0.
    token_hidden, channel_hidden: hidden width of the perceptron along the patches and of the one along the
        channels.
    Shapes: x [..., height, width, in_dim] -> y [..., classes].
    image_size, patch: a number, or (height, width).
    dropout: of each branch's result, a rate in [0, 1].
    drop_path: of whole branches, a rate in [0, 1].
    unroll: that of `nf.repeat`.
    Raises: ValueError when the patch does not divide the image, or x has another size.
    Source: Tolstikhin et al. 2021, arXiv:2105.01601, section 2; eps is that of its code.

    >>> model = nf.mixer(10, image_size=8, patch=4, in_dim=1, dim=6, layers=2, token_hidden=5,
    ...                  channel_hidden=12)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((3, 8, 8, 1))).shape
    (3, 10)
    """
    check.size("mixer", classes=classes, in_dim=in_dim, dim=dim, layers=layers)
    size, count = grid("mixer", image_size, patch)
    drops = {"drop": dropout_layer(dropout)} if dropout is not None else {}
    drops |= {"drop_path": drop_path_layer(drop_path)} if drop_path is not None else {}

    def branch(net, name, x):
        y = net[name](x)
        for drop in drops:
            y = net[drop](y)
        return y

    def block(net, x):
        across = branch(net, "tokens", net.token_norm(x).swapaxes(-1, -2))  # [..., dim, patches]
        x = x + across.swapaxes(-1, -2)  # [..., patches, dim]
        return x + branch(net, "channels", net.channel_norm(x))

    blocks = wire(
        block,
        token_norm=layer_norm(dim, eps=eps),
        tokens=feed_forward(count, token_hidden),
        channel_norm=layer_norm(dim, eps=eps),
        channels=feed_forward(dim, channel_hidden),
        **drops,
    )

    def flow(net, x):
        check_image("mixer", x, size, in_dim)
        return net.head(net.norm(net.blocks(net.patches(x))).mean(-2))

    return wire(
        flow,
        patches=patch_embedding(patch, in_dim, dim),
        blocks=repeat(blocks, layers, unroll=unroll),
        norm=layer_norm(dim, eps=eps),
        head=linear(dim, classes),
    )
