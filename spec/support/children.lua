-- SPDX-License-Identifier: MIT
-- The child processes of this one, zombies included.

local lfs = require "lfs"
local support = require "spec.support"

---@return integer[] pids
return function()
  local found, self = {}, tostring(support.pid())
  for name in lfs.dir "/proc" do
    local file = name:find "^%d+$" and io.open("/proc/" .. name .. "/stat")
    if file then
      local parent = (file:read "a" or ""):match "^.*%) %a (%d+)"
      file:close()
      if parent == self then
        found[#found + 1] = math.tointeger(name)
      end
    end
  end
  return found
end
