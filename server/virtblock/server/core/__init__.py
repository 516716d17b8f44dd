# SPDX-License-Identifier: Apache-2.0
"""The core: domains, flags, checks, jobs, events and the store. Knows no gRPC and no libvirt."""
