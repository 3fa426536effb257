-- SPDX-License-Identifier: MIT
-- Starts busted in the interpreter that runs this file: the installed `busted` command chooses an
-- interpreter of its own, which need not be the one that concur was built for.
require "busted.runner" { standalone = false }
