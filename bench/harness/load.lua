-- SPDX-License-Identifier: MIT
-- A whole program: loads a library, or none, and ends. load.lua [MODULE [version]] also prints the
-- library's version.

local name, wanted = ...
local module = name and require(name)

local versions = {
  concur = function()
    return "this tree"
  end,
  luv = function()
    return module.version_string()
  end,
  cqueues = function()
    return module.VERSION
  end,
}

if wanted == "version" then
  print(versions[name]())
end
