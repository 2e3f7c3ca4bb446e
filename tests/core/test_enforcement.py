"""The switch of enforcement as a value."""

from gateway.core.enforcement import Switch, SwitchedOff, switch_text, switched_off


def test_its_text_says_all() -> None:
    """Nothing stands for on."""
    off = SwitchedOff("ada", "why", 5, 9, "ci")
    assert switched_off(switch_text(off)) == off
    assert switched_off("") is None
    assert (Switch().is_off, Switch(switch_text(off)).is_off) == (False, True)
