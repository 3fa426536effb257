-- SPDX-License-Identifier: MIT
--
-- For who builds a C module that uses concur. See docs/reference/c_api.md.

local M = {}

-- Where this file lies: "lua/concur/" in the sources, "share/lua/5.4/concur/" when installed.
local here = debug.getinfo(1, "S").source:match "^@(.*[/\\])" or "./"

-- The installed rock has the header beside the Lua files.
local FOLDERS = { here .. "include", here .. "../../include" }

--[[@lua
---The folder that has `concur.h`, for the compiler's `-I`: with it, other C modules can run C code on
---concur's threads and suspend the task that calls them. Raises when the header was not installed.
---@return string
function concur.include_dir() end
]]
function M.include_dir()
  for _, folder in ipairs(FOLDERS) do
    local file = io.open(folder .. "/concur.h")
    if file then
      file:close()
      return folder
    end
  end
  error("concur.h was not installed: it should be in " .. FOLDERS[1], 2)
end

return M
