-- SPDX-License-Identifier: MIT
-- Who takes part: how each implementation is found on this machine and started.

local system = require "harness.system"

local peers = {}

-- In the order of the tables. `concur` and `limit` must be there, the others may be missing.
peers.order = { "concur", "limit", "wrap", "luv", "cqueues", "uvloop", "uvloop_protocol", "asyncio",
  "node" }

peers.titles = {
  concur = "concur",
  limit = "raw limit",
  wrap = "coroutine.wrap",
  luv = "lua-luv",
  cqueues = "lua-cqueues",
  uvloop = "Python, uvloop",
  uvloop_protocol = "uvloop, Protocol",
  asyncio = "Python, asyncio",
  node = "node",
}

-- The same library, used in another way.
peers.variant_of = { uvloop_protocol = "uvloop" }

-- Which part of a workload has the source of those in Python; of the others it is named like them.
local PYTHON = { uvloop = "python", uvloop_protocol = "python_protocol", asyncio = "python" }

local function quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

local function compile(build, target, source, flags)
  os.execute("mkdir -p " .. quote(build .. "/bench"))
  local command = ("cc -std=c11 -D_GNU_SOURCE -O2 -o %s bench/harness/%s %s"):format(
    quote(build .. "/bench/" .. target), source, flags)
  if not os.execute(command) then
    error("bench/harness/" .. source .. " does not compile; it needs what concur itself needs", 0)
  end
end

-- The clocks and limits, a Lua module, and the client of the servers, a program.
local function compile_native(build)
  compile(build, "native.so", "native.c",
    "-shared -fPIC $(pkg-config --cflags --libs lua5.4 libuv)")
  compile(build, "echo_client", "echo_client.c", "")
end

local function find_python(module)
  for _, python in ipairs { "python3", "/usr/bin/python3" } do
    local version = system.first_line(python .. " -c 'import sys, " .. module
      .. "; print(sys.version.split()[0], getattr(" .. module .. ', "__version__", ""))\'')
    if version then
      return python, version
    end
  end
  return nil
end

---Looks which implementations this machine has.
---@param build string where concur was built
---@return table<string, string> present name to version
---@return table<string, string> missing name to what to install
function peers.find(build)
  compile_native(build)
  peers.build = build
  peers.lua = os.getenv "CONCUR_LUA" or "lua5.4"
  local present, missing = {}, {}
  present.limit, present.wrap = _VERSION, _VERSION

  local function look(name, version, advice)
    if version then
      present[name] = version
    else
      missing[name] = advice
    end
  end
  local load = peers.environment() .. peers.lua .. " bench/harness/load.lua "
  look("concur", system.first_line(load .. "concur version"), "make build")
  look("luv", system.first_line(load .. "luv version"), "lua-luv")
  look("cqueues", system.first_line(load .. "cqueues version"), "lua-cqueues")
  look("node", system.first_line "node --version", "nodejs")
  local version
  peers.python, version = find_python "asyncio"
  look("asyncio", version, "python3")
  peers.python_uvloop, version = find_python "uvloop"
  look("uvloop", version, "python3-uvloop")
  for variant, name in pairs(peers.variant_of) do
    present[variant], missing[variant] = present[name], missing[name]
  end
  return present, missing
end

---What goes before a command so that its Lua finds concur and the limits.
---@return string
function peers.environment()
  local lua_path = "lua/?.lua;lua/?/init.lua;" .. (os.getenv "LUA_PATH" or ";")
  local lua_cpath = peers.build .. "/bench/?.so;" .. peers.build .. "/?.so;"
    .. (os.getenv "LUA_CPATH" or ";")
  return ("env LUA_PATH=%s LUA_CPATH=%s "):format(quote(lua_path), quote(lua_cpath))
end

-- The part of a workload in another language, as a file.
local function write_source(workload, part, extension)
  local path = ("%s/bench/%s-%s.%s"):format(peers.build, workload.name, part, extension)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(workload[part]))
  return path
end

-- What starts the workload; `seconds` and `batch` are "serve" and "PORT" for a server.
local function child_command(workload, name, seconds, batch)
  if PYTHON[name] then
    local uvloop = name ~= "asyncio"
    return ("%s bench/harness/child.py %s %s %s %s"):format(
      uvloop and peers.python_uvloop or peers.python,
      quote(write_source(workload, PYTHON[name], "py")), seconds, batch, uvloop and "uvloop" or "")
  elseif name == "node" then
    return ("node --expose-gc bench/harness/child.js %s %s %s"):format(
      quote(write_source(workload, "node", "js")), seconds, batch)
  end
  return ("%s%s bench/harness/child.lua %s %s %s %s"):format(peers.environment(), peers.lua,
    workload.name, name, seconds, workload.server and batch or "")
end

---The command that takes one sample.
---@param workload table
---@param name string the implementation
---@param seconds number about how long
---@return string
function peers.command(workload, name, seconds)
  local server = workload.server
  if not server then
    return child_command(workload, name, seconds, workload.batch)
  end
  return ("%s/bench/echo_client %g %d %d %s"):format(quote(peers.build), seconds,
    server.connections, server.size, child_command(workload, name, "serve", "PORT"))
end

---Is it another library, and not concur itself or what shows its limits?
---@param name string
---@return boolean
function peers.is_peer(name)
  return name ~= "concur" and name ~= "limit" and name ~= "wrap"
end

---Does the workload have this implementation?
---@param workload table
---@param name string
---@return boolean
function peers.has(workload, name)
  return workload[PYTHON[name] or name] ~= nil
end

return peers
