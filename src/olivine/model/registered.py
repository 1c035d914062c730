"""Everything that Olivine adds to transformers' Auto classes, registered by importing this module.

`import olivine` does so on demand: `auto_classes`.
"""

from olivine.model.connectors.llava import ConnectorLlava
from olivine.model.towers.joined import JoinedTower

REGISTERED = (ConnectorLlava, JoinedTower)
