-- SPDX-License-Identifier: MIT
-- What an echo server of concur does with a connection: for workloads/echo.lua and harness/sweeps.lua.

---@param stream concur.Stream
return function(stream)
  while true do
    local data = stream:read_some()
    if not data then
      return
    end
    stream:write(data)
  end
end
