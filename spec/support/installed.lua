-- SPDX-License-Identifier: MIT
-- The rock, installed once for all specs of a run, by `luarocks make` from a copy of the sources.

local support = require "spec.support"

local installed = {}

installed.ROCKSPEC = "concur-scm-1.rockspec"

-- What belongs to the rock, in a directory of its own: luarocks builds in the sources.
local function copy_sources()
  local directory = support.tmpdir()
  local result = support.execute { "cp", "-R", "csrc", "lua", "include", installed.ROCKSPEC,
    directory }
  assert(result.code == 0, support.describe(result))
  result = support.execute({ "sh", "-c", "rm -f csrc/*.o" }, { cwd = directory })
  assert(result.code == 0, support.describe(result))
  return directory
end

---The tree that the rock is installed in. The sources that it was built from are gone.
---@return string path absolute
function installed.tree()
  if support.installed_tree then -- kept there: busted loads this file anew for each spec file
    return support.installed_tree
  end
  local sources, target = copy_sources(), support.build .. "/rock"
  assert(support.execute({ "rm", "-rf", target }).code == 0)
  local made = support.execute(
    { "luarocks", "--lua-version", "5.4", "--tree", target, "make" },
    { cwd = sources, timeout = 240, env = { LUA_PATH = false, LUA_CPATH = false,
      LUA_INIT = false } })
  assert(made.code == 0, support.describe(made))
  assert(support.execute({ "rm", "-rf", sources }).code == 0)
  support.installed_tree = target
  return target
end

---The variables with which the stock interpreter finds the tree and nothing else of ours.
---@param cpath? string one more folder for C modules
---@return table<string, string|false> env for `support.execute`
function installed.environment(cpath)
  local share = installed.tree() .. "/share/lua/5.4"
  return {
    LUA_PATH = share .. "/?.lua;" .. share .. "/?/init.lua",
    LUA_CPATH = installed.tree() .. "/lib/lua/5.4/?.so"
      .. (cpath and ";" .. cpath .. "/?.so" or ""),
    LUA_INIT = false,
  }
end

---Runs code in the stock interpreter with the tree.
---@param code string
---@param cpath? string one more folder for C modules
---@return support.Result
function installed.run(code, cpath)
  local script = support.tmpdir() .. "/script.lua"
  support.write_file(script, code)
  return support.execute({ "lua5.4", script },
    { env = installed.environment(cpath), cwd = support.tmpdir() })
end

return installed
