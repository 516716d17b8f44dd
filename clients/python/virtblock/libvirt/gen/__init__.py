# SPDX-License-Identifier: Apache-2.0
"""Generated: names, numbers and signatures, see `generate_libvirt_names.py`."""
