"""Local models: the cache folder (list, pull, convert, remove), and the check before loading."""

from duet_sdk.models.cache import EMBEDDED as EMBEDDED
from duet_sdk.models.cache import CachedModel as CachedModel
from duet_sdk.models.cache import cache_folder as cache_folder
from duet_sdk.models.cache import embedded as embedded
from duet_sdk.models.cache import find as find
from duet_sdk.models.cache import listing as listing
from duet_sdk.models.cache import pull as pull
from duet_sdk.models.cache import remove as remove
from duet_sdk.models.folder import check_folder as check_folder
from duet_sdk.models.sources import Progress as Progress
from duet_sdk.models.sources import convert_gguf as convert_gguf
