-- SPDX-License-Identifier: MIT
--
-- The program of a worker process, and how its pool finds out what to start.
--
-- A pool starts its workers as `lua process_worker.lua --concur-worker CORE PATH CPATH`: this file as a
-- script, told where the module in C and the modules in Lua are. A program of a host's own that is
-- started instead (the option `command`) requires this module and calls `run`. Either way the link to
-- the pool is inherited as descriptors 3 and 4 (csrc/process_link.h), and csrc/process_worker.c does
-- the work.

local flag, core_path, path, cpath = ...

if flag == "--concur-worker" then
  package.path, package.cpath = path, cpath
  local open = core_path ~= "" and package.loadlib(core_path, "luaopen_concur_core")
  if open then
    package.preload["concur.core"] = open
  end
  require("concur.core").process_worker()
  return
end

local core = require "concur.core"

local M = {}

local SCRIPT = debug.getinfo(1, "S").source:match "^@(.*)$"

-- What a program on the PATH may be called that can run this file.
local NAMES = { "lua5.4", "lua54", "lua-5.4", "lua" }

local function is_readable(file)
  local handle = file and io.open(file, "rb")
  if handle then
    handle:close()
  end
  return handle ~= nil
end

-- The interpreter that runs this program, or one that is installed; nil if there is none.
local function find_interpreter()
  local own = core.interpreter()
  if own then
    return own
  end
  for _, candidate in ipairs(NAMES) do
    for directory in (os.getenv "PATH" or ""):gmatch "[^:]+" do
      if is_readable(directory .. "/" .. candidate) then
        return directory .. "/" .. candidate
      end
    end
  end
end

-- The words that start a worker, for the option `command` of a pool; nil and why there are none.
function M.command(option)
  if type(option) == "table" then
    for i = 1, #option do
      if type(option[i]) ~= "string" then
        return nil, "option 'command' must be a list of strings"
      end
    end
    if #option == 0 then
      return nil, "option 'command' must name a program"
    end
    return option
  elseif option ~= nil and type(option) ~= "string" then
    return nil, "option 'command' must be a path or a list of words, got " .. type(option)
  end
  if not is_readable(SCRIPT) then
    return nil, "cannot find concur/process_worker.lua as a file: give a list as option 'command'"
  end
  local interpreter = option or find_interpreter()
  if not interpreter then
    return nil, "cannot find a Lua interpreter for the workers: give the option 'command'"
  end
  local location = core.location() or ""
  return { interpreter, SCRIPT, "--concur-worker", location, package.path, package.cpath }
end

---Is a worker: runs the jobs of the pool that started this process, until there will be no more.
---For programs that a pool starts by its option `command`.
---Raises an error in any other process.
function M.run()
  core.process_worker()
end

return M
