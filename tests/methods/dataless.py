"""The methods that need no evidence: everything but models and a recipe."""

from automerge.methods import METHODS

DATALESS = {name: method for name, method in METHODS.items() if not method.needs}
EVIDENCED = {name: method for name, method in METHODS.items() if method.needs}
