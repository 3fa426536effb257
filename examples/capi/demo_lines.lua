-- SPDX-License-Identifier: MIT
-- lines.c, the module of docs/tutorial-c-module.md: counts the lines of several files at once.

local concur = require "concur"
local lines = require "lines"

print(lines.count "README.md" > 10) -- a plain script can wait, too

concur.run(function()
  local a, b = concur.gather(
    function() return lines.count "README.md" end,
    function() return lines.count "CHANGELOG.md" end)
  print(a > 10 and b > 10)

  print(lines.count "no/such/file")
end)
