"""The two patches of the E2B SDK, and the code that applies and undoes them.

Each patch has a table of the places in the SDK that it changes, with a replacement for each place. Importing this
package does not import ``e2b``.
"""
