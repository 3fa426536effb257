// SPDX-License-Identifier: MIT
// The echo server on node.
const net = require('net');

const server = net.createServer(socket => {
  socket.setNoDelay(true);
  socket.on('data', data => socket.write(data));
  socket.on('error', () => {});
});
server.listen({ port: 0, host: '127.0.0.1', backlog: 1024 }, () => {
  console.log(server.address().port);
});
