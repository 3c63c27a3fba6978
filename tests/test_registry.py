"""Spec strings, registration, and the making of components; its errors name what is wrong and what is near."""

import importlib
import inspect
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import detrkit
from detrkit.errors import ConfigError, DetrkitError, RegistryError
from detrkit.matchers import Assignment, Matcher
from detrkit.registry import DIMENSIONS, REGISTRY, ROLES, Registry, Signature
from detrkit.specs import LONGEST_SPEC, Spec

pytestmark = pytest.mark.fast

BUILTIN = [(role, name) for role in ROLES for name in REGISTRY.builtin(role)]

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda s: s.isidentifier() and not is_keyword(s))
plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary()
)
values = st.recursive(
    plain, lambda x: st.lists(x, max_size=3) | st.tuples(x, x) | st.dictionaries(plain, x, max_size=3)
)
specs = st.builds(Spec, names, st.dictionaries(names, values, max_size=4))


def is_keyword(word):
    import keyword

    return keyword.iskeyword(word)


class Good(Matcher):
    """Keeps the contract."""

    optimal = False

    def __init__(self, *, strength: float = 1.0) -> None:
        self.strength = strength

    def assign(self, cost):
        raise NotImplementedError


class Other(Good):
    """Another one."""


# --- spec strings -----------------------------------------------------------------------------------------------------


@given(specs)
def test_spec_survives_its_text(spec):
    assert Spec.parse(str(spec)) == spec


@given(specs)
def test_equal_specs_have_equal_hashes(spec):
    turned = Spec(spec.name, dict(reversed(spec.settings.items())))
    assert turned == spec
    assert hash(turned) == hash(spec)


@pytest.mark.filterwarnings("ignore:.*invalid escape sequence")
@given(st.text("ab()=,.'\"*[]{}-1e9 :_+\\\n#", max_size=30) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        spec = Spec.parse(text)
    except RegistryError:
        return
    assert Spec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("sine", "sine", {}),
        ("  sine ", "sine", {}),
        ("sine()", "sine", {}),
        ("a(b=1, c=-2.5, d='x', e=None)", "a", {"b": 1, "c": -2.5, "d": "x", "e": None}),
        ("a(b=true, c=false, d=none, e=True)", "a", {"b": True, "c": False, "d": None, "e": True}),
        ("a(norm=frozen)", "a", {"norm": "frozen"}),
        ("a(b=(1, 2), c=[3])", "a", {"b": (1, 2), "c": [3]}),
        ("a(b=c(d=1))", "a", {"b": "c(d=1)"}),
        ("a(b=c( d = e(f='g') ))", "a", {"b": "c(d=e(f='g'))"}),
    ],
)
def test_spec_is_read(text, name, settings):
    assert Spec.parse(text) == Spec(name, settings)


def test_nested_spec_can_be_read_again():
    inner = Spec.parse("a(b=c(d=e(f=1)))").settings["b"]
    assert Spec.parse(Spec.parse(inner).settings["d"]) == Spec("e", {"f": 1})


REFUSED = [
    "", " ", "1", "'a'", "a b", "a(1)", "a(b, c=1)", "a(*b)", "a(**b)", "a(b=1, **c)", "a(b=1, b=2)", "a.b", "a.b(c=1)",
    "a[0]", "a(b=c.d)", "a(b=c[0])", "a(b=c(1))", "a(b=__import__('os'))", "a(b=__import__('os').system('true'))",
    "__import__('os')", "a(b=c.d(e=1))", "a(b=lambda: 0)", "a(b=[c for c in d])", "a(b=f'{c}')", "a(b=(c := 1))",
    "a(b=1 if c else 2)", "a(b=[c])", "a(b={**c})", "a(b={[]: 1})", "a(b=c)(d=1)", "a(b=...)", "a(b=1e999)",
    "a(b=-inf)", "a; b", "a\nb", "a\x00", "\ud800", "(yield)", "await a", "lambda: 0", "None", "True", "a(b=1", "a)",
    "9a", "a(b==1)",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_spec_is_refused(text):
    with pytest.raises(RegistryError, match="not a spec string"):
        Spec.parse(text)


@pytest.mark.parametrize("value", [None, 3, b"a", ["a"]])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(RegistryError, match="not a spec string"):
        Spec.parse(value)


HUGE = {
    "deep lists": "a(b=" + "[" * 3000 + "]" * 3000 + ")",
    "unclosed": "(" * 9000,
    "long sum": "a(b=" + "1+" * 4000 + "1)",
    "long chain": "a(b=c" + ".d" * 4000 + ")",
    "many signs": "a(b=" + "-" * 9000 + "1)",
    "deep calls": "a(b=" * 2000 + "c" + ")" * 2000,
    "many digits": "a(b=" + "9" * 9000 + ")",
    "too long": "a(b='" + "x" * LONGEST_SPEC + "')",
    "a megabyte": "a(" + ", ".join(f"b{i}=1" for i in range(100_000)) + ")",
}


@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE)
def test_huge_text_is_refused_at_once(text):
    started = time.perf_counter()
    with pytest.raises(RegistryError, match="not a spec string") as caught:
        Spec.parse(text)
    assert time.perf_counter() - started < 2
    assert len(str(caught.value)) < 2 * LONGEST_SPEC


def test_deep_nesting_does_not_explode():
    """Quoting a nested spec inside a nested spec once doubled its length at every level."""
    text = "a" + "(b=a" * 60 + ")" * 60
    assert len(str(Spec.parse(text))) < 2 * len(text)


# --- names and roles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "name"), BUILTIN)
def test_builtin_file_holds_one_public_component(role, name):
    module = importlib.import_module(f"detrkit.{role}.{name}")
    contract = REGISTRY.contract(role)
    public = [
        item
        for key, item in vars(module).items()
        if inspect.isclass(item) and item.__module__ == module.__name__ and issubclass(item, contract)
        and not inspect.isabstract(item) and not key.startswith("_")
    ]  # fmt: skip
    assert public == [REGISTRY.get(role, name)]
    assert public[0].__final__


@pytest.mark.parametrize(("role", "name"), BUILTIN)
def test_builtin_component_tells_its_signature(role, name):
    signature = REGISTRY.signature(role, name)
    assert set(signature.dimensions) <= set(DIMENSIONS)
    assert set(signature.annotations) == {*signature.dimensions, *signature.settings}


def test_names_that_users_rely_on():
    assert {"einops", "matrix", "per_head", "sdpa", "torch"} <= set(detrkit.names("attention"))
    assert {"sine", "learned"} <= set(detrkit.names("positional"))
    assert {"scipy", "numpy", "greedy"} <= set(detrkit.names("matchers"))
    assert {"torchvision", "timm", "tiny"} <= set(detrkit.names("backbones"))
    assert {"toy", "voc"} <= set(detrkit.names("datasets"))
    assert set(detrkit.roles()) == set(ROLES)


@pytest.mark.parametrize(
    ("role", "name", "near"),
    [("matchers", "scippy", "scipy"), ("attention", "matrx", "matrix"), ("positional", "sin", "sine")],
)
def test_unknown_name_is_met_with_the_nearest(role, name, near):
    with pytest.raises(RegistryError, match=f"did you mean '{near}'"):
        REGISTRY.get(role, name)


def test_unknown_role_is_met_with_the_nearest():
    for ask in (REGISTRY.names, REGISTRY.builtin, REGISTRY.plugins, REGISTRY.contract):
        with pytest.raises(RegistryError, match="did you mean 'matchers'"):
            ask("matcher")


@pytest.mark.parametrize("name", ["__init__", "_trunk", "../matchers/numpy", "numpy.numpy", "", "os"])
def test_no_name_reaches_beyond_the_components(name):
    with pytest.raises(RegistryError, match="unknown name"):
        REGISTRY.get("backbones", name)


# --- registration -----------------------------------------------------------------------------------------------------


def test_registered_component_is_listed_and_made():
    registry = Registry()
    assert registry.register("matchers", "good", Good) is Good
    assert "good" in registry.names("matchers")
    assert registry.make("matchers", "good(strength=2)").strength == 2
    assert "good" not in REGISTRY.names("matchers")


def test_taken_name_is_refused_naming_both():
    registry = Registry()
    registry.register("matchers", "good", Good)
    with pytest.raises(RegistryError, match="registered already") as caught:
        registry.register("matchers", "good", Other)
    assert f"{__name__}:Good" in str(caught.value)
    assert f"got '{__name__}'" in str(caught.value)
    assert registry.get("matchers", "good") is Good


def test_builtin_name_is_refused_naming_its_module():
    with pytest.raises(RegistryError, match=r"detrkit\.matchers\.scipy.*override=True"):
        Registry().register("matchers", "scipy", Good)


def test_override_replaces():
    registry = Registry()
    registry.register("matchers", "scipy", Good, override=True)
    assert registry.get("matchers", "scipy") is Good
    assert registry.names("matchers").count("scipy") == 1


def test_temporarily_restores():
    registry = Registry()
    with registry.temporarily("matchers", "good", Good) as component:
        assert component is Good
        assert registry.get("matchers", "good") is Good
    assert "good" not in registry.names("matchers")


def test_temporarily_restores_after_an_exception():
    registry = Registry()
    registry.register("matchers", "kept", Other)
    with pytest.raises(ZeroDivisionError), registry.temporarily("matchers", "good", Good):
        raise ZeroDivisionError
    assert "good" not in registry.names("matchers")
    assert registry.get("matchers", "kept") is Other


def test_temporarily_leaves_a_taken_name_alone():
    registry = Registry()
    with pytest.raises(RegistryError, match="registered already"), registry.temporarily("matchers", "scipy", Good):
        pass
    assert registry.get("matchers", "scipy").__module__ == "detrkit.matchers.scipy"


def with_init(init):
    return type("Odd", (Good,), {"__init__": init, "__module__": __name__})


def positional_args(self, *args: int) -> None: ...
def keyword_args(self, **kwargs: int) -> None: ...
def both(self, *args: int, **kwargs: int) -> None: ...
def unknown_dimension(self, d_modl: int) -> None: ...
def setting_before_the_star(self, strength: float = 1.0) -> None: ...
def without_annotation(self, *, strength=1.0) -> None: ...
def dimension_without_annotation(self, d_model) -> None: ...


@pytest.mark.parametrize(
    ("init", "sentence"),
    [
        (positional_args, "signature hides its settings.*args"),
        (keyword_args, "signature hides its settings.*kwargs"),
        (both, "signature hides its settings"),
        (unknown_dimension, "unknown dimension.*d_modl.*did you mean 'd_model'"),
        (setting_before_the_star, "unknown dimension.*strength.*settings stand after the star"),
        (without_annotation, "parameter without annotation.*strength"),
        (dimension_without_annotation, "parameter without annotation.*d_model"),
    ],
)
def test_signature_is_refused_at_registration(init, sentence):
    registry = Registry()
    with pytest.raises(RegistryError, match=sentence) as caught:
        registry.register("matchers", "odd", with_init(init))
    assert f"{__name__}:Odd" in str(caught.value)
    assert "odd" not in registry.names("matchers")


class Abstract(Matcher):
    """Forgets `assign`."""

    optimal = True


@pytest.mark.parametrize(
    ("component", "sentence"),
    [
        (int, r"not a component of this role.*detrkit\.matchers\.Matcher"),
        (Good(), "not a component of this role"),
        (len, "not a component of this role"),
        (Abstract, "component is abstract.*it defines assign"),
        (Matcher, "component is abstract"),
    ],
)
def test_what_keeps_no_contract_is_refused(component, sentence):
    with pytest.raises(RegistryError, match=sentence):
        Registry().register("matchers", "odd", component)


def test_signature_without_init_is_empty():
    class Plain(Matcher):
        optimal = True

        def assign(self, cost):
            return Assignment(cost, cost)

    assert Signature.of(Plain) == Signature({}, {}, {})


# --- making -----------------------------------------------------------------------------------------------------------


def test_make_gives_settings_and_dimensions():
    attention = REGISTRY.make("attention", "matrix(heads=4)", d_model=32, dropout=0.25, num_queries=7)
    assert (attention.heads, attention.d_model, attention.dropout) == (4, 32, 0.25)


MISTAKES = [
    ("attention", "matrix(heads=4)", {"d_modl": 32}, "'d_modl' is no dimension; did you mean 'd_model'"),
    ("attention", "matrix", {"d_model": 32, "heads": 4}, r"'heads' is no dimension.*settings stand in the spec"),
    ("attention", "matrix", {}, "needs the dimension 'd_model' .width of the tokens., which nothing tells here"),
    ("attention", "matrix(d_model=32)", {"d_model": 32}, "'d_model' is a dimension: the model tells it"),
    ("attention", "matrix(head=4)", {"d_model": 32}, "unknown setting 'head'; did you mean 'heads'"),
    ("attention", "matrix(heads='4')", {"d_model": 32}, "heads: got '4'; expected int, at least 1"),
    ("attention", "matrix(heads=true)", {"d_model": 32}, "heads: got True; expected int, at least 1"),
    ("attention", "matrix(heads=0)", {"d_model": 32}, "heads: got 0; expected int, at least 1"),
    ("attention", "matrix(heads=2.0)", {"d_model": 32}, "heads: got 2.0; expected int, at least 1"),
    ("attention", "matrix(heads=5)", {"d_model": 32}, "d_model=32 is not divisible by heads=5"),
    (
        "attention",
        "matrix",
        {"d_model": 32, "dropout": 1.5},
        "dropout: got 1.5; expected float, at least 0 and at most 1",
    ),
    ("attention", "matrix", {"d_model": "32"}, "d_model: got '32'; expected int"),
    ("positional", "learned(size=-1)", {"d_model": 32}, "size: got -1"),
    ("positional", "learned(interpolate=1)", {"d_model": 32}, "interpolate: got 1; expected bool"),
    ("backbones", "tiny(stride=5)", {}, "stride: got 5; expected one of 4, 8, 16, 32"),
    ("backbones", "tiny(width=12)", {}, "expected a multiple of 8"),
]


@pytest.mark.parametrize(("role", "spec", "dimensions", "sentence"), MISTAKES)
def test_mistake_is_explained(role, spec, dimensions, sentence):
    with pytest.raises(ConfigError, match=sentence):
        REGISTRY.make(role, spec, **dimensions)


def test_all_mistakes_are_told_at_once():
    problems = REGISTRY.problems("positional", "learned(siz=3, interpolate=2)", {}, "positional")
    assert len(problems) == 3
    assert all(line.startswith("positional=learned") for line in problems)


def test_setting_without_default_must_be_given():
    class Needy(Good):
        def __init__(self, *, folder: str) -> None:
            self.folder = folder

    registry = Registry()
    registry.register("matchers", "needy", Needy)
    with pytest.raises(ConfigError, match="setting 'folder' must be given; expected str"):
        registry.make("matchers", "needy")
    assert registry.make("matchers", "needy(folder=here)").folder == "here"


@pytest.mark.parametrize("spec", ["nothing", "matrix(", ""])
def test_bad_spec_is_a_problem_and_an_error(spec):
    assert len(REGISTRY.problems("attention", spec, {"d_model": 8})) == 1
    with pytest.raises(DetrkitError):
        REGISTRY.make("attention", spec, d_model=8)


def test_package_offers_the_registry():
    assert detrkit.make("matchers", "numpy").optimal
    assert (detrkit.roles, detrkit.names) == (REGISTRY.roles, REGISTRY.names)
