-- SPDX-License-Identifier: MIT
--
-- LuaSocket's module `socket`, on concur: what blocks there suspends the task here. The objects are
-- in socket_tcp.lua and socket_udp.lua.
--
-- What is written on LuaSocket in Lua runs unmodified: `socket.require "socket.http"` loads it with
-- this module in place of `socket`, and leaves the rest of the program alone; `socket.install()` puts
-- it there for everybody.

local concur = require "concur"
local common = require "concur.compat.socket_common"
local coroutines = require "concur.compat.coroutines"
local core = require "concur.core"
local errors = require "concur.errors"
local select_objects = require "concur.compat.socket_select"
local tcp = require "concur.compat.socket_tcp"
local udp = require "concur.compat.socket_udp"

---LuaSocket's module `socket`: its functions and objects suspend the task instead of blocking.
---@class concur.compat.socket
local socket = {
  _VERSION = "LuaSocket 3.0.0", -- what it behaves like
  _SETSIZE = math.maxinteger,
  _SOCKETINVALID = -1,
  _DATAGRAMSIZE = udp.DATAGRAM_SIZE,
  BLOCKSIZE = 2048,
}

-- Objects ---------------------------------------------------------------------------------------

---A TCP object, neither connected nor listening yet.
---@return table master
socket.tcp = tcp.tcp

---The same, for IPv4.
---@return table master
socket.tcp4 = tcp.tcp4

---The same, for IPv6.
---@return table master
socket.tcp6 = tcp.tcp6

---A UDP object.
---@return table unconnected
socket.udp = udp.udp

---The same, for IPv4.
---@return table unconnected
socket.udp4 = udp.udp4

---The same, for IPv6.
---@return table unconnected
socket.udp6 = udp.udp6

---Which of the objects can be read, and which written, now or within `timeout` seconds: two lists,
---which have each object's position under the object, too.
---@async
---@param readers? table[]
---@param writers? table[]
---@param timeout? number seconds; nil or negative: no limit
---@return table readable
---@return table writable
---@return "timeout"|nil err nobody is ready
socket.select = select_objects

-- Connections ------------------------------------------------------------------------------------

local function new_tcp(family)
  return family == "inet" and tcp.tcp4() or family == "inet6" and tcp.tcp6() or tcp.tcp()
end

---A client that is connected: `socket.connect(host, port, local_host, local_port, family)`.
---@async
---@param host string
---@param port integer|string
---@param local_host? string
---@param local_port? integer|string
---@param family? "inet"|"inet6"|"unspec"
---@return table? client
---@return string? err
function socket.connect(host, port, local_host, local_port, family)
  common.check_string(host, 1, "connect")
  common.check_string(port, 2, "connect")
  if local_host ~= nil then
    common.check_string(local_host, 3, "connect")
    common.check_string(local_port or 0, 4, "connect")
  end
  local client = new_tcp(family)
  if local_host then
    local ok, err = client:bind(local_host, local_port or 0)
    if not ok then
      return nil, err
    end
  end
  local ok, err = client:connect(host, port)
  if not ok then
    client:close()
    return nil, err
  end
  return client
end

---As `connect`, by IPv4.
---@async
---@param host string
---@param port integer|string
---@param local_host? string
---@param local_port? integer|string
---@return table? client
---@return string? err
function socket.connect4(host, port, local_host, local_port)
  return socket.connect(host, port, local_host, local_port, "inet")
end

---As `connect`, by IPv6.
---@async
---@param host string
---@param port integer|string
---@param local_host? string
---@param local_port? integer|string
---@return table? client
---@return string? err
function socket.connect6(host, port, local_host, local_port)
  return socket.connect(host, port, local_host, local_port, "inet6")
end

---A server that listens: `socket.bind(host, port, backlog)`.
---@async
---@param host string "*": all addresses of IPv4
---@param port integer|string
---@param backlog? integer
---@return table? server
---@return string? err
function socket.bind(host, port, backlog)
  common.check_string(host, 1, "bind")
  common.check_string(port, 2, "bind")
  common.opt_number(backlog, 3, "bind", 0)
  local server = tcp.tcp()
  server:setoption("reuseaddr", true)
  local ok, err = server:bind(host, port)
  if ok then
    ok, err = server:listen(backlog)
  end
  if not ok then
    server:close()
    return nil, err
  end
  return server
end

-- Errors as values and back ----------------------------------------------------------------------

-- What `try` raises: an error that `protect` turns back into nil, err.
local Failure = { __tostring = function(failure) return tostring(failure[1]) end }

---A function `try(ok, err, ...)` that returns its arguments, or, if the first one is false or nil,
---calls `finalizer` and raises what the function of a `protect` around it returns as `nil, err`.
---@param finalizer? function its errors are ignored
---@return function try
function socket.newtry(finalizer)
  return function(...)
    if ... then
      return ...
    end
    if finalizer then
      concur.pcall(finalizer)
    end
    error(setmetatable({ (select(2, ...)) }, Failure), 0)
  end
end

---A `try` without finalizer.
---@param ... any
---@return any ...
socket.try = socket.newtry()

local function unprotect(ok, ...)
  if ok then
    return ...
  end
  local err = ...
  if getmetatable(err) == Failure then
    return nil, err[1]
  end
  core.rethrow(err)
end

---A function like `fn` that returns `nil, err` where a `try` in it fails; other errors are raised.
---@param fn function
---@return function
function socket.protect(fn)
  return function(...)
    return unprotect(concur.pcall(fn, ...))
  end
end

---Its arguments without the first `count`.
---@param count integer
---@param ... any
---@return any ...
function socket.skip(count, ...)
  count = common.check_number(count, 1, "skip")
  if count < 0 then
    return count, ...
  end
  return select(count + 1, ...)
end

-- Time ------------------------------------------------------------------------------------------

---Seconds since 1970.
---@return number
socket.gettime = core.wall_time

---Suspends the task.
---@async
---@param seconds number
function socket.sleep(seconds)
  concur.sleep(common.check_number(seconds, 1, "sleep"))
end

-- Names -----------------------------------------------------------------------------------------

socket.dns = {}

function socket.dns.gethostname()
  return core.host_name()
end

local function host_entry(name, list)
  local entry = { name = name, alias = {}, ip = {} }
  for _, each in ipairs(list) do
    entry.ip[#entry.ip + 1] = each.address
  end
  return entry
end

function socket.dns.toip(host)
  host = common.check_string(host, 1, "toip")
  local list = concur.dns.resolve(host, nil, { family = "inet" })
  if not list then
    return nil, "host not found"
  end
  return list[1].address, host_entry(host, list)
end

function socket.dns.tohostname(address)
  address = common.check_string(address, 1, "tohostname")
  local list = concur.dns.resolve(address, nil, { family = "inet" })
  local name = list and concur.dns.reverse(list[1].address)
  if not name then
    return nil, "host not found"
  end
  return name, host_entry(name, list)
end

function socket.dns.getaddrinfo(host)
  host = common.check_string(host, 1, "getaddrinfo")
  local list, err = concur.dns.resolve(host)
  if not list then
    return nil, common.words(err)
  end
  local found = {}
  for i, each in ipairs(list) do
    found[i] = { family = each.family, addr = each.address }
  end
  return found
end

function socket.dns.getnameinfo(host, service)
  host = common.check_string(host, 1, "getnameinfo")
  local list, err = concur.dns.resolve(host, service)
  if not list then
    return nil, common.words(err)
  end
  local names = {}
  for i, each in ipairs(list) do
    names[i] = concur.dns.reverse(each.address) or each.address
  end
  return names, service
end

-- Sources and sinks (LTN12) ---------------------------------------------------------------------

-- A callable object that `select` can wait for.
local function callable(client, call)
  return setmetatable({
    getfd = function() return client:getfd() end,
    dirty = function() return client:dirty() end,
  }, { __call = call })
end

socket.sinkt = {}
socket.sourcet = {}

socket.sinkt["close-when-done"] = function(client)
  return callable(client, function(_, chunk)
    if chunk then
      return client:send(chunk)
    end
    client:close()
    return 1
  end)
end

socket.sinkt["keep-open"] = function(client)
  return callable(client, function(_, chunk)
    if chunk then
      return client:send(chunk)
    end
    return 1
  end)
end

socket.sourcet["by-length"] = function(client, length)
  return callable(client, function()
    if length <= 0 then
      return nil
    end
    local chunk, err = client:receive(math.min(length, socket.BLOCKSIZE))
    if not chunk then
      return nil, err
    end
    length = length - #chunk
    return chunk
  end)
end

socket.sourcet["until-closed"] = function(client)
  local ended = false
  return callable(client, function()
    if ended then
      return nil
    end
    local chunk, err, partial = client:receive(socket.BLOCKSIZE)
    if chunk then
      return chunk
    elseif err ~= "closed" then
      return nil, err
    end
    ended = true
    client:close()
    return partial
  end)
end

socket.sinkt.default = socket.sinkt["keep-open"]
socket.sourcet.default = socket.sourcet["until-closed"]

---A function that calls the entry of `choices` that its first argument names ("default" if that is
---no string) with the other arguments.
---@param choices table<string, function>
---@return function
function socket.choose(choices)
  return function(name, ...)
    if type(name) ~= "string" then
      return choices.default(name, ...)
    end
    local choice = choices[name]
    if not choice then
      error("unknown key (" .. name .. ")", 3)
    end
    return choice(...)
  end
end

---`socket.sink(mode, client)`: modes "keep-open" (default), "close-when-done".
---@param mode? string
---@param client table
---@return table
socket.sink = socket.choose(socket.sinkt)

---`socket.source(mode, client, length)`: modes "until-closed" (default), "by-length".
---@param mode? string
---@param client table
---@param length? integer
---@return table
socket.source = socket.choose(socket.sourcet)

-- In place of LuaSocket --------------------------------------------------------------------------

local REPLACED = { ["socket"] = true, ["socket.core"] = true }
local SHARED = {
  _G = true, string = true, table = true, math = true, io = true, os = true, utf8 = true,
  debug = true, package = true,
}

local private = {} -- what `socket.require` has loaded: name to value

local function load_privately(name, path)
  local environment
  environment = setmetatable({ require = socket.require, coroutine = coroutines },
    { __index = _G, __newindex = _G })
  local chunk, err = loadfile(path, "bt", environment)
  if not chunk then
    error(("error loading module '%s' from file '%s':\n\t%s"):format(name, path, err), 3)
  end
  private[name] = true -- for circles, as Lua's own require does
  local value = chunk(name, path)
  private[name] = value == nil and true or value
  return private[name]
end

---As Lua's `require`, for modules that are written on LuaSocket: each one that is a Lua file is loaded
---once more, for users of this function alone, and finds this module where it requires "socket", and
---coroutines in which it may wait. Modules in C and concur's own are those that everybody has.
---@param name string
---@return any
function socket.require(name)
  name = common.check_string(name, 1, "require")
  if REPLACED[name] then
    return socket
  elseif name == "coroutine" then
    return coroutines
  elseif SHARED[name] or name == "concur" or name:find "^concur%." then
    return require(name)
  elseif private[name] ~= nil then
    return private[name]
  end
  local path = not package.preload[name] and package.searchpath(name, package.path)
  if not path then
    return (require(name))
  end
  return load_privately(name, path)
end

---From now on `require "socket"` gives this module to everybody who has not required LuaSocket yet.
---Raises `InvalidState` when LuaSocket is loaded already.
---@return function uninstall puts everything back
function socket.install()
  local before = {}
  for name in pairs(REPLACED) do
    local loaded = package.loaded[name]
    if loaded ~= nil and loaded ~= socket then
      error(errors.new("InvalidState", ("'%s' is loaded already: call install() before anything " ..
        "requires it, or load its users with socket.require"):format(name)), 2)
    end
    before[name] = loaded
  end
  for name in pairs(REPLACED) do
    package.loaded[name] = socket
  end
  return function()
    for name in pairs(REPLACED) do
      package.loaded[name] = before[name]
    end
  end
end

return socket
