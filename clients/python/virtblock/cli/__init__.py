# SPDX-License-Identifier: Apache-2.0
"""The console script `virtblock`: virsh's grammar, texts and exit codes over `virtblock.client`."""
