"""How given models relate to each other, before anything is merged."""

from automerge.inspection.examine import examine, name_models
from automerge.inspection.html import html_page
from automerge.inspection.model import Inspection
from automerge.inspection.plain import plain
from automerge.inspection.text import InspectionText

__all__ = ["Inspection", "InspectionText", "examine", "html_page", "name_models", "plain"]
