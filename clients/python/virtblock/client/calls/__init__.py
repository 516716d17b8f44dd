# SPDX-License-Identifier: Apache-2.0
"""Every RPC as a pure function from typed arguments to a `Call`: the one place where a call is described.

Both front ends are generated from the signatures and docstrings here, by `generate_calls.py`.
"""
