# SPDX-License-Identifier: Apache-2.0
"""libvirt-python's interface over virtblockd: `from virtblock import libvirt` instead of `import libvirt`.

Names, signatures, answers, constants and exceptions are those of libvirt-python; libvirt itself is not needed. What is
not offered raises libvirtError VIR_ERR_NO_SUPPORT. Which server a URI means is told by `open`.
"""

from __future__ import annotations

from virtblock.libvirt.connection import (
    getVersion as getVersion,
)
from virtblock.libvirt.connection import (
    open as open,
)
from virtblock.libvirt.connection import (
    openAuth as openAuth,
)
from virtblock.libvirt.connection import (
    openReadOnly as openReadOnly,
)
from virtblock.libvirt.connection import (
    virConnect as virConnect,
)
from virtblock.libvirt.connection import (
    virInitialize as virInitialize,
)
from virtblock.libvirt.domain import (
    virDomain as virDomain,
)
from virtblock.libvirt.errors import (
    libvirtError as libvirtError,
)
from virtblock.libvirt.errors import (
    registerErrorHandler as registerErrorHandler,
)
from virtblock.libvirt.errors import (
    virGetLastError as virGetLastError,
)
from virtblock.libvirt.errors import (
    virGetLastErrorCode as virGetLastErrorCode,
)
from virtblock.libvirt.errors import (
    virGetLastErrorDomain as virGetLastErrorDomain,
)
from virtblock.libvirt.errors import (
    virGetLastErrorMessage as virGetLastErrorMessage,
)
from virtblock.libvirt.errors import (
    virResetLastError as virResetLastError,
)
from virtblock.libvirt.events import (
    _eventInvokeHandleCallback as _eventInvokeHandleCallback,
)
from virtblock.libvirt.events import (
    _eventInvokeTimeoutCallback as _eventInvokeTimeoutCallback,
)
from virtblock.libvirt.events import (
    virEventAddHandle as virEventAddHandle,
)
from virtblock.libvirt.events import (
    virEventAddTimeout as virEventAddTimeout,
)
from virtblock.libvirt.events import (
    virEventInvokeFreeCallback as virEventInvokeFreeCallback,
)
from virtblock.libvirt.events import (
    virEventRegisterDefaultImpl as virEventRegisterDefaultImpl,
)
from virtblock.libvirt.events import (
    virEventRegisterImpl as virEventRegisterImpl,
)
from virtblock.libvirt.events import (
    virEventRemoveHandle as virEventRemoveHandle,
)
from virtblock.libvirt.events import (
    virEventRemoveTimeout as virEventRemoveTimeout,
)
from virtblock.libvirt.events import (
    virEventRunDefaultImpl as virEventRunDefaultImpl,
)
from virtblock.libvirt.events import (
    virEventUpdateHandle as virEventUpdateHandle,
)
from virtblock.libvirt.events import (
    virEventUpdateTimeout as virEventUpdateTimeout,
)
from virtblock.libvirt.gen.constants import *
from virtblock.libvirt.gen.not_offered import (
    virDomainCheckpoint as virDomainCheckpoint,
)
from virtblock.libvirt.gen.not_offered import (
    virInterface as virInterface,
)
from virtblock.libvirt.gen.not_offered import (
    virNetwork as virNetwork,
)
from virtblock.libvirt.gen.not_offered import (
    virNetworkPort as virNetworkPort,
)
from virtblock.libvirt.gen.not_offered import (
    virNodeDevice as virNodeDevice,
)
from virtblock.libvirt.gen.not_offered import (
    virNWFilter as virNWFilter,
)
from virtblock.libvirt.gen.not_offered import (
    virNWFilterBinding as virNWFilterBinding,
)
from virtblock.libvirt.gen.not_offered import (
    virSecret as virSecret,
)
from virtblock.libvirt.gen.not_offered import (
    virStoragePool as virStoragePool,
)
from virtblock.libvirt.gen.not_offered import (
    virStorageVol as virStorageVol,
)
from virtblock.libvirt.gen.not_offered import (
    virStream as virStream,
)
from virtblock.libvirt.snapshot import (
    virDomainSnapshot as virDomainSnapshot,
)
