-- SPDX-License-Identifier: MIT
--
-- LuaSocket's UDP objects on concur.net.udp. The socket is made when it is first needed: an address
-- is known by then, or none is wanted.

local concur = require "concur"
local common = require "concur.compat.socket_common"
local core = require "concur.core"
local net = require "concur.net"

local OK = common.OK
local DATAGRAM_SIZE = 8192 -- what `receive` takes when it is not told

local UDP = { __name = "udp" }
UDP.__index = UDP

local CONNECTED = { ["udp{connected}"] = true, name = "udp{connected}" }
local UNCONNECTED = { ["udp{unconnected}"] = true, name = "udp{unconnected}" }
local ANY = { ["udp{connected}"] = true, ["udp{unconnected}"] = true, name = "udp{any}" }

local M = { UDP = UDP, DATAGRAM_SIZE = DATAGRAM_SIZE }

local function new_object(family)
  return setmetatable({ class = "udp{unconnected}", family = family, options = {},
    timeouts = common.new_timeouts() }, UDP)
end

function M.udp()
  return new_object()
end

function M.udp4()
  return new_object "inet"
end

function M.udp6()
  return new_object "inet6"
end

function UDP:__tostring()
  return ("%s: %p"):format(self.class, self)
end

-- The socket, made now if there is none; or nil, err.
local function socket_of(self, host, port)
  if self.closed then
    return nil, "closed"
  elseif not self.socket then
    local family = self.family or host and host:find(":", 1, true) and "inet6" or nil
    local socket, err = net.udp(host, port, { family = family,
      reuseaddr = self.options.reuseaddr, reuseport = self.options.reuseport,
      ipv6only = self.options["ipv6-v6only"] })
    if not socket then
      return nil, common.words(err)
    end
    self.socket = socket
    common.apply_options(self)
  end
  return self.socket
end

-- A socket that can reach the host: of its family.
local function socket_for(self, host)
  return socket_of(self, not self.family and host:find(":", 1, true) and "::" or nil)
end

-- Sending ---------------------------------------------------------------------------------------

local function send(self, method, data, ...)
  local deadline = common.begin(self)
  local socket = self.socket
  local in_time = true
  local ok, err
  if deadline and deadline <= concur.now() and core.socket_ready(socket:fd(), "w") then
    ok, err = socket[method](socket, data, ...)
  else
    in_time, ok, err = common.until_deadline(deadline, socket[method], socket, data, ...)
  end
  if not in_time then
    return nil, "timeout"
  elseif not ok then
    return nil, common.words(err)
  end
  return #data + 0.0
end

-- `connected:send(datagram)`
function UDP:send(data)
  common.check_class(self, CONNECTED, "send")
  data = common.check_string(data, 2, "send")
  if self.closed then
    return nil, "closed"
  end
  return send(self, "send", data)
end

-- `unconnected:sendto(datagram, ip, port)`
function UDP:sendto(data, host, port)
  common.check_class(self, UNCONNECTED, "sendto")
  data, host = common.check_string(data, 2, "sendto"), common.check_string(host, 3, "sendto")
  local number, err = common.port_number(port, 4, "sendto")
  if not number then
    return nil, err
  end
  local socket
  socket, err = socket_for(self, host)
  if not socket then
    return nil, err
  end
  return send(self, "send_to", data, host, number)
end

-- Receiving -------------------------------------------------------------------------------------

local function receive(self, size, method)
  size = math.floor(common.opt_number(size, 2, method, DATAGRAM_SIZE))
  local socket, err = socket_of(self)
  if not socket then
    return nil, err
  end
  local deadline = common.begin(self)
  local in_time = true
  local data, host, port
  if not deadline or core.socket_ready(socket:fd(), "r") then
    data, host, port = socket:recv_from(size)
  else
    in_time, data, host, port = common.until_deadline(deadline, socket.recv_from, socket, size)
  end
  if not in_time then
    return nil, "timeout"
  elseif not data then
    return nil, common.words(host)
  end
  return data, host, port
end

-- `object:receive(size)`
function UDP:receive(size)
  common.check_class(self, ANY, "receive")
  local data, err = receive(self, size, "receive")
  if not data then
    return nil, err
  end
  return data
end

-- `unconnected:receivefrom(size)`: the datagram, and from where
function UDP:receivefrom(size)
  common.check_class(self, UNCONNECTED, "receivefrom")
  local data, host, port = receive(self, size, "receivefrom")
  if not data then
    return nil, host
  end
  return data, host, port
end

-- Addresses -------------------------------------------------------------------------------------

-- `unconnected:setsockname(host, port)`
function UDP:setsockname(host, port)
  common.check_class(self, UNCONNECTED, "setsockname")
  host = common.check_string(host, 2, "setsockname")
  local number, err = common.port_number(port, 3, "setsockname")
  if not number then
    return nil, err
  elseif self.socket then
    return nil, "Invalid argument"
  end
  local socket
  socket, err = socket_of(self, host, number)
  if not socket then
    return nil, err
  end
  return OK
end

-- `object:setpeername(host, port)`; "*": it is unconnected again
function UDP:setpeername(host, port)
  common.check_class(self, ANY, "setpeername")
  host = common.check_string(host, 2, "setpeername")
  local ok, socket, number, err
  if host == "*" then
    socket, err = socket_of(self)
    if socket then
      ok, err = socket:connect()
    end
  else
    number, err = common.port_number(port, 3, "setpeername")
    if not number then
      return nil, err
    end
    socket, err = socket_for(self, host)
    if socket then
      ok, err = socket:connect(host, number)
    end
  end
  if not ok then
    return nil, type(err) == "string" and err or common.words(err)
  end
  self.class = host == "*" and "udp{unconnected}" or "udp{connected}"
  return OK
end

-- `object:getsockname()`
function UDP:getsockname()
  common.check_class(self, ANY, "getsockname")
  if self.closed then
    return nil, "Bad file descriptor"
  end
  local socket, err = socket_of(self)
  if not socket then
    return nil, err
  end
  local host, port = socket:address()
  return common.address(host, port, true)
end

-- `connected:getpeername()`
function UDP:getpeername()
  common.check_class(self, CONNECTED, "getpeername")
  if self.closed then
    return nil, "Bad file descriptor"
  end
  return common.address(self.socket:peer_address())
end

-- The rest --------------------------------------------------------------------------------------

-- Options that say which group.
local GROUPS = {
  ["ip-add-membership"] = "join", ["ipv6-add-membership"] = "join",
  ["ip-drop-membership"] = "leave", ["ipv6-drop-membership"] = "leave",
}

common.add_methods(UDP, ANY)
local setoption = UDP.setoption

-- `object:setoption(name, value)`
function UDP:setoption(name, value)
  common.check_class(self, ANY, "setoption")
  local method = GROUPS[name]
  if name == "ip-multicast-if" then
    local socket = socket_of(self)
    if not socket or not socket:set { multicast_interface = value } then
      return nil, "setsockopt failed"
    end
    return OK
  elseif not method then
    local ok, err = setoption(self, name, value)
    if not ok then
      return nil, err
    end
    return OK
  elseif type(value) ~= "table" then
    common.argument_error(3, "setoption", "table expected, got " .. type(value))
  elseif type(value.multiaddr) ~= "string" then
    common.argument_error(3, "setoption", "string 'multiaddr' field expected")
  end
  local socket = socket_for(self, value.multiaddr)
  local interface = value.interface
  if interface == "*" or type(interface) == "number" then
    interface = nil
  end
  if not socket or not socket[method](socket, value.multiaddr, interface) then
    return nil, "setsockopt failed"
  end
  return OK
end

-- `object:close()`
function UDP:close()
  common.check_class(self, ANY, "close")
  self.closed = true
  if self.socket then
    self.socket:close()
  end
  return OK
end

UDP.__close = UDP.close

-- `object:getfd()`
function UDP:getfd()
  common.check_class(self, ANY, "getfd")
  local socket = self.socket
  return socket and not socket:closed() and socket:fd() + 0.0 or -1.0
end

-- `object:dirty()`: nothing is read ahead.
function UDP.dirty()
  return false
end

return M
