"""One loader for every job: file, then --set, then flags; mistakes are told in sentences."""

import json
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from pipeline.errors import SettingsError, StorageError
from pipeline.settings import Settings, default_text, describe_settings, load_settings, setting_names


class Engine(Settings):
    power_kw: Annotated[float, Field(description="power in kW", gt=0)] = 50.0
    fuel: Annotated[Literal["diesel", "none"], Field(description="what it burns")] = "diesel"
    gears: Annotated[Literal["auto"] | int, Field(description="how many")] = "auto"


class Cargo(Settings):
    names: Annotated[tuple[str, ...], Field(description="what is aboard")] = ("coal", "ore")
    owner: Annotated[str | None, Field(description="whose it is")] = None


class Ship(Settings):
    name: Annotated[str, Field(description="its name")]
    engine: Engine = Engine()
    cargo: Cargo = Cargo()


def load(*assignments, config_url=None, **flags):
    return load_settings(Ship, config_url=config_url, assignments=assignments, flags=flags)


@pytest.fixture
def ship_yaml(tmp_path):
    path = tmp_path / "ship.yaml"
    path.write_text("name: from file\nengine: {power_kw: 1, fuel: none}\ncargo:\n  names: [salt]\n")
    return str(path)


class TestPrecedence:
    def test_flags_beat_assignments_beat_the_file(self, ship_yaml):
        ship = load_settings(
            Ship,
            config_url=ship_yaml,
            assignments=["engine.power_kw=2", "engine.fuel=diesel", "name=from set"],
            flags={"name": "from flag", "engine.fuel": None},
        )
        assert ship.name == "from flag"
        assert ship.engine == Engine(power_kw=2, fuel="diesel")
        assert ship.cargo.names == ("salt",)

    def test_the_later_assignment_wins(self):
        assert load("name=a", "name=b").name == "b"

    def test_json_is_read_as_well(self, tmp_path):
        path = tmp_path / "ship.json"
        path.write_text(json.dumps({"name": "j", "engine": {"gears": 5}}))
        assert load(config_url=str(path)).engine.gears == 5

    def test_a_file_is_read_from_a_bucket(self, s3_bucket):
        s3_bucket.put_public("ship.yaml", b"name: afar")
        assert load(config_url=f"{s3_bucket.url}/ship.yaml").name == "afar"

    def test_values_are_yaml(self):
        ship = load("name=x", "cargo.names=[a, b=c]", "engine.gears=4", "cargo.owner=null")
        assert ship.cargo.names == ("a", "b=c")
        assert ship.engine.gears == 4
        assert ship.cargo.owner is None

    def test_a_group_left_empty_keeps_its_defaults(self, tmp_path):
        """As a file reads whose every line below a name is commented out."""
        path = tmp_path / "ship.yaml"
        path.write_text("name: x\nengine:\n  # power_kw: 3\ncargo:\n")
        assert load(config_url=str(path)) == Ship(name="x")
        assert load("engine.gears=2", config_url=str(path)).engine.gears == 2

    def test_settings_cannot_be_changed_afterwards(self):
        with pytest.raises(ValidationError, match="frozen"):
            load("name=x").engine.gears = 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("assignment", "unknown", "nearest"),
        [
            ("engine.power=3", "engine.power", "engine.power_kw"),
            ("engin.fuel=none", "engin", "engine"),
            ("nmae=x", "nmae", "name"),
            ("cargo.name=x", "cargo.name", "cargo.names"),
            ("engine.fuel_kw.x=1", "engine.fuel_kw", "engine.fuel"),
        ],
    )
    def test_an_unknown_name_is_told_with_the_nearest(self, assignment, unknown, nearest):
        with pytest.raises(SettingsError) as caught:
            load("name=x", assignment)
        assert f"there is no setting {unknown!r}; the nearest is {nearest!r}" == str(caught.value)

    def test_a_value_below_a_value_is_refused(self):
        with pytest.raises(SettingsError, match="'fuel' already has a value and holds no settings"):
            load("name=x", "engine.fuel=none", "engine.fuel.price=3")

    def test_what_must_be_given_is_named(self):
        with pytest.raises(SettingsError, match=r"^name must be given$"):
            load()

    def test_every_fault_is_told_at_once(self):
        with pytest.raises(SettingsError) as caught:
            load("engine.fuel=coal", "engine.power_kw=-1", "cargo.x=1")
        for word in ("name must be given", "engine.fuel: ", "engine.power_kw: ", "'coal'", "-1", "'cargo.x'"):
            assert word in str(caught.value)

    def test_a_choice_or_number_is_told_as_one_fault_of_one_setting(self):
        with pytest.raises(SettingsError) as caught:
            load("name=x", "engine.gears=many")
        said = str(caught.value)
        assert said.startswith("engine.gears: ")
        assert "'auto'" in said
        assert said.count("engine.gears") == said.count("got 'many'") == 1

    def test_an_item_of_a_list_is_told_by_its_setting(self):
        with pytest.raises(SettingsError, match=r"^cargo\.names: .*got 7$"):
            load("name=x", "cargo.names=[a, 7]")

    def test_an_assignment_needs_an_equals_sign(self):
        with pytest.raises(SettingsError, match=r"--set takes dotted\.key=value, got 'name'"):
            load("name")

    def test_a_value_that_is_no_yaml(self):
        with pytest.raises(SettingsError, match=r"--set name: the value must be YAML, got '\[a'"):
            load("name=[a")

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [("- a\n- b\n", "must hold settings by name, got a list"), ("a: [\n", "must be YAML or JSON")],
    )
    def test_a_file_that_holds_no_settings(self, tmp_path, text, sentence):
        path = tmp_path / "ship.yaml"
        path.write_text(text)
        with pytest.raises(SettingsError, match=sentence):
            load(config_url=str(path))

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(StorageError, match=r"there must be a file at .*absent\.yaml; there is none"):
            load(config_url=str(tmp_path / "absent.yaml"))

    def test_an_empty_file_gives_the_defaults(self, tmp_path):
        path = tmp_path / "ship.yaml"
        path.write_text("# nothing\n")
        assert load("name=x", config_url=str(path)) == Ship(name="x")


class TestHelp:
    def test_every_setting_is_described_with_default_and_meaning(self):
        text = describe_settings(Ship)
        for line in (
            "name = (required)", "engine.power_kw = 50.0", "engine.fuel = diesel", "engine.gears = auto",
            "cargo.names = [coal, ore]", "cargo.owner = null", "power in kW", "whose it is",
        ):  # fmt: skip
            assert line in text
        assert [name for name, _ in setting_names(Ship)] == [
            "name", "engine.power_kw", "engine.fuel", "engine.gears", "cargo.names", "cargo.owner"
        ]  # fmt: skip

    def test_a_default_read_back_is_the_default(self):
        for name, field in setting_names(Ship):
            if not field.is_required():
                assert load("name=x", f"{name}={default_text(field)}") == Ship(name="x")


def test_a_field_may_be_explained_by_its_class():
    class Explained(Settings):
        """Some settings.

        Attributes:
            near: In m, as far
                as one sees.
            far: Not shown, since the field says it itself.
        """

        near: int = 1
        far: Annotated[int, Field(description="in km")] = 2

    assert {name: field.description for name, field in setting_names(Explained)} == {
        "near": "In m, as far as one sees.",
        "far": "in km",
    }
    assert Explained.model_fields["near"].description is None, "the class itself is left as it is"
