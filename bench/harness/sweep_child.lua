-- SPDX-License-Identifier: MIT
-- One point of a curve of bench/sweep.lua: sweep_child.lua CURVE SIZE. Prints lines "label<tab>value".

package.path = "bench/?.lua;" .. package.path

local concur = require "concur"
local sweeps = require "harness.sweeps"

local sweep, size = sweeps.by_name[arg[1]], tonumber(arg[2])

concur.run(function()
  sweep.measure(size, function(label, value)
    print(("%s\t%.3f"):format(label, value))
  end)
end)
