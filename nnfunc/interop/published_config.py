"""The settings in a published config.json as arguments of a model, and back, by one table for both directions."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from nnfunc import check
from nnfunc.base import Model
from nnfunc.interop.name_table import Row
from nnfunc.models.convnext import convnext, convnext_small, convnext_tiny
from nnfunc.models.resnet import cifar_resnet, resnet, resnet18, resnet34, resnet50

REQUIRED = object()
ACTIVATIONS = {
    **{"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"},
    **{"relu": "relu", "silu": "silu", "swish": "silu", "tanh": "tanh", "quick_gelu": "quick_gelu"},
}
"""The names of activations in a config.json, and those of `nf.activations`; the first of several is written."""
GATED = {
    "silu": "swiglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
    "gelu": "geglu",
    "relu": "reglu",
}


class Setting(NamedTuple):
    """A setting of config.json that is an argument of the model.

    name: there, or several names, of which the first that is there is read and the first is written.
    argument: of the factory.
    form: int, float or bool, or {value there: value here}.
    default: that of the published format where the setting is not there; None leaves the argument out.
    """

    name: str | tuple[str, ...]
    argument: str
    form: Any = int
    default: Any = REQUIRED

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if isinstance(self.name, str) else self.name


class PublishedConfig(dict[str, Any]):
    """The content of a config.json, its file for messages, and the names of the tensors, None where not known."""

    def __init__(self, values: Mapping[str, Any], where: str, tensors: Collection[str] | None = None):
        super().__init__(values)
        self.where = where
        self.tensors = tensors

    def read(self, setting: Setting) -> Any:
        """The value of a setting, checked."""
        present = [name for name in setting.names if self.get(name) is not None]
        if not present:
            if setting.default is REQUIRED:
                check.fail(self.where, f"it has no {setting.names[0]}, which sets {setting.argument} of the model.")
            return setting.default
        name, form = present[0], setting.form
        value = self[name]
        if isinstance(form, dict):
            check.choice(self.where, form, **{name: value})
            return form[value]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (isinstance(value, bool) if form is bool else number and (form is float or isinstance(value, int))):
            expected = {int: "an integer", float: "a number", bool: "true or false"}[form]
            check.fail(self.where, expected=f"{name} should be {expected}", actual=check.describe(value))
        return value

    @property
    def architecture(self) -> str:
        """The first of architectures, which says what the model returns; empty without any."""
        names = self.get("architectures") or [""]
        if not (isinstance(names, list) and isinstance(names[0], str)):
            check.fail(self.where, expected="architectures should be a list of names", actual=check.describe(names))
        return names[0]

    def table(self, name: str) -> dict[str, Any]:
        """A setting that is a table, {} where it is not there."""
        value = self.get(name)
        if not isinstance(value, dict | None):
            check.fail(self.where, expected=f"{name} should be a table", actual=check.describe(value))
        return value or {}

    def require(self, **fixed: Any) -> None:
        """Raise where a setting has another value than the only one that the model has here."""
        for name, value in fixed.items():
            if self.get(name, value) not in (value, None):
                expected = f"{name} should be {value!r}, the only value that nnfunc supports in this model"
                check.fail(self.where, expected=expected, actual=repr(self[name]))


class Family(NamedTuple):
    """Models whose weights were published under the same names.

    name: the `model_type` of its config.json.
    factory: what makes the model here.
    settings: those that are arguments.
    rows: the table of names, or a function of the arguments that returns it.
    architectures: names in config.json -> arguments; the first that agrees with a model is written.
    fixed: settings whose only value the model has here.
    read: further arguments from the config.
    write: further settings from the arguments; it raises where the family has no such model.
    prefix: what precedes the names of the body where there is a head, and not where there is none.
    ignored: patterns of
    tensors that a model does not need, such as buffers.
    older: ends of names -> those in older files.
    section: the part of a config.json of several models that has the settings.
    renamed: beginnings of the names of the tensors of such files, and those here; the first that the file has
        counts, and other tensors are left alone.
    """

    name: str
    factory: Callable[..., Model]
    settings: Sequence[Setting]
    rows: Sequence[Row] | Callable[[Mapping[str, Any]], Sequence[Row]]
    architectures: Mapping[str, Mapping[str, Any]]
    fixed: Mapping[str, Any] = {}
    read: Callable[[PublishedConfig], Mapping[str, Any]] = lambda config: {}
    write: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda arguments: {}
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    older: Mapping[str, str] = {}
    section: str = ""
    renamed: Mapping[str, str] = {}

    def arguments(self, config: PublishedConfig) -> dict[str, Any]:
        """The arguments of the factory that a config.json sets."""
        if isinstance(config.get(self.section), dict):
            config = PublishedConfig(
                {**config, **config[self.section]}, f"{config.where}: {self.section}", config.tensors
            )
        config.require(**self.fixed)
        values = {setting.argument: config.read(setting) for setting in self.settings}
        present = {name: value for name, value in values.items() if value is not None}
        return present | dict(self.architectures.get(config.architecture, {})) | dict(self.read(config))

    def rename(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """The tensors of the file of several models that are of this one, by their names here."""
        for first, ours in self.renamed.items():
            chosen = {
                f"{ours}{name.removeprefix(first)}": one for name, one in tensors.items() if name.startswith(first)
            }
            if chosen:
                return chosen
        return tensors

    def config(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The config.json of a model with these arguments."""
        config: dict[str, Any] = {"model_type": self.name, **self.fixed}
        for setting in self.settings:
            value = arguments[setting.argument]
            if value is None:
                continue
            if isinstance(setting.form, dict):
                inverse = {ours: there for there, ours in reversed(setting.form.items())}
                if value not in inverse:
                    expected = f"{setting.argument} should be one that {self.name} has, {', '.join(map(repr, inverse))}"
                    check.fail("to_pretrained", expected=expected, actual=repr(value))
                value = inverse[value]
            elif check.is_plain(value):
                value = setting.form(value)
            config[setting.names[0]] = value
        fitting = [
            name
            for name, needed in self.architectures.items()
            if all(arguments[argument] == value for argument, value in needed.items())
        ]
        return config | {"architectures": fitting[:1]} | dict(self.write(arguments))

    def table(self, arguments: Mapping[str, Any]) -> Sequence[Row]:
        """The rows for a model with these arguments."""
        return self.rows(arguments) if callable(self.rows) else self.rows


def cifar_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    width, blocks = arguments["width"], (arguments["depth"] - 2) // 6
    return {"depths": [blocks] * 3, "widths": [width, 2 * width, 4 * width], "block": "basic", "stem": "cifar"}


VARIANTS: dict[Callable[..., Model], tuple[Callable[..., Model], Any]] = {
    resnet18: (resnet, {"depths": (2, 2, 2, 2), "block": "basic"}),
    resnet34: (resnet, {"depths": (3, 4, 6, 3), "block": "basic"}),
    resnet50: (resnet, {"depths": (3, 4, 6, 3), "block": "bottleneck"}),
    cifar_resnet: (resnet, cifar_arguments),
    convnext_tiny: (convnext, {"depths": (3, 3, 9, 3)}),
    convnext_small: (convnext, {"depths": (3, 3, 27, 3)}),
}
"""Factories of one size: the general factory, and the arguments that they fix, or a function that returns them."""


def arguments_of(model: Model) -> tuple[Any, dict[str, Any]]:
    """(the factory that made a model, all arguments of that call, those with a default included).

    A factory of one size, such as `nf.resnet18`, is the general one with its arguments.
    """
    factory, args, kwargs = model.factory_call
    signature = inspect.signature(factory)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    for variant, (general, fixed) in VARIANTS.items():
        if inspect.unwrap(factory) is inspect.unwrap(variant):
            defaults = {name: p.default for name, p in inspect.signature(general).parameters.items()}
            more: Any = fixed(arguments) if callable(fixed) else fixed
            return inspect.unwrap(general), defaults | arguments | more
    return inspect.unwrap(factory), arguments


def without(arguments: Mapping[str, Any], **neutral: Any) -> None:
    """Raise where an argument has another value than the only one of a family."""
    for name, value in neutral.items():
        if arguments[name] != value:
            hint = "Choose another family=."
            expected = f"{name} should be {value!r} in this family"
            check.fail("to_pretrained", expected=expected, actual=check.describe(arguments[name]), hint=hint)


def read_classes(config: PublishedConfig) -> dict[str, Any]:
    """The number of classes, which config.json has as their names."""
    return {"classes": len(config.get("id2label") or range(config.get("num_labels", 2)))}


def write_classes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the classes."""
    labels = {str(i): f"LABEL_{i}" for i in range(arguments["classes"])}
    return {"id2label": labels, "label2id": {name: int(i) for i, name in labels.items()}}


def read_head(config: PublishedConfig) -> dict[str, Any]:
    """The classes of a model of images, None where its body alone was saved."""
    return {"classes": None} if config.architecture.endswith("Model") else read_classes(config)


def write_head(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the classes of a model of images, if it has a head."""
    return {} if arguments["classes"] is None else write_classes(arguments)
