# SPDX-License-Identifier: Apache-2.0
"""The hypervisor connections. Each driver is a package of its own and knows the core, never the wire."""
