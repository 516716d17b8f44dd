# SPDX-License-Identifier: Apache-2.0
"""What a command line did, and the domain that every test has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

DOMAIN_XML = """<domain type='test'>
  <name>t1</name>
  <uuid>7cc73cc3-e997-4669-ace9-e93f689e55a8</uuid>
  <memory unit='KiB'>65536</memory>
  <os>
    <type>hvm</type>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/img/a b.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block' device='lun'>
      <source dev='/dev/sdx'/>
      <target dev='sdb' bus='scsi'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='hda' bus='ide'/>
      <readonly/>
    </disk>
    <disk type='network' device='disk'>
      <source protocol='rbd' name='pool/img'>
        <host name='x'/>
      </source>
      <target dev='vdc' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""


@dataclass
class Ran:
    """What a command line did."""

    exit_code: int
    out: str
    err: str


Virtblock = Callable[..., Ran]
