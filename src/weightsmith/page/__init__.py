"""The local page of `weightsmith ui`: what may be read, runs and their queue, the server, and what people see."""
