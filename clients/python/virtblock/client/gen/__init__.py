# SPDX-License-Identifier: Apache-2.0
"""The methods of both clients, generated from `virtblock.client.calls`."""
