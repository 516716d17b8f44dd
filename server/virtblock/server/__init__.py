# SPDX-License-Identifier: Apache-2.0
"""The virtblock server. Floors, top to bottom: app and cli, rpc, drivers, core (see ARCHITECTURE.md)."""
